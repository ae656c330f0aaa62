"""Raw sources to curated documents: readers, rules, duplicates, decontamination, splits, mixtures, baselines."""
