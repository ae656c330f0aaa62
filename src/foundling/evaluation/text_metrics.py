"""BLEU, chrF and ROUGE of generated text, by the libraries that define them (extra `foundling[text-metrics]`)."""

from __future__ import annotations

from collections.abc import Sequence

from foundling.core.errors import FoundlingError

NAMES = ("bleu", "chrf", "rouge-1", "rouge-2", "rouge-l")


def sentence_score(name: str, answer: str, accepted: Sequence[str]) -> float:
    """One answer against its references, 0 to 1. BLEU is smoothed and uses the orders that short texts have."""
    if name.startswith("rouge"):
        return _rouge(name, answer, accepted)
    sacrebleu = _sacrebleu()
    if name == "bleu":
        return float(sacrebleu.sentence_bleu(answer, list(accepted)).score) / 100
    return float(sacrebleu.sentence_chrf(answer, list(accepted)).score) / 100


def corpus_score(name: str, answers: Sequence[str], accepted: Sequence[Sequence[str]]) -> float:
    """BLEU or chrF of all answers as one corpus, 0 to 1, by sacrebleu's defaults: the number that papers give.

    Args:
        accepted: the references of each answer; answers with fewer references repeat their first.
    """
    most = max(map(len, accepted))
    columns = [[refs[i] if i < len(refs) else refs[0] for refs in accepted] for i in range(most)]
    return float(getattr(_sacrebleu(), f"corpus_{name}")(list(answers), columns).score) / 100


def _sacrebleu():  # type: ignore[no-untyped-def]
    try:
        import sacrebleu
    except ImportError:
        raise FoundlingError("BLEU and chrF need sacrebleu", fix="pip install 'foundling[text-metrics]'") from None
    return sacrebleu


def _rouge(name: str, answer: str, accepted: Sequence[str]) -> float:
    try:
        from rouge_score import rouge_scorer
    except ImportError:
        raise FoundlingError("ROUGE needs rouge-score", fix="pip install 'foundling[text-metrics]'") from None
    kind = {"rouge-1": "rouge1", "rouge-2": "rouge2", "rouge-l": "rougeL"}[name]
    scorer = rouge_scorer.RougeScorer([kind], use_stemmer=True)
    return float(max(scorer.score(truth, answer)[kind].fmeasure for truth in accepted))
