"""One engine for every caller: scheduler, paged KV cache, sampler, grammar, speculation, search."""
