"""A vocabulary of a model's own among the configs that a single file holds."""

from safelight.checkpoints.json_object import JsonObject, naming
from safelight.text.vocabulary import CLIP_VOCABULARY, Vocabulary, merges_text, vocabulary_of


def vocabulary_from_json(json: JsonObject | None) -> Vocabulary:
    """The vocabulary that a file states; CLIP's if it states none.

    Raises CheckpointError for what are no merges.
    """
    if json is None:
        return CLIP_VOCABULARY
    with naming(json):
        return vocabulary_of(json.text("merges"))


def vocabulary_to_json(vocabulary: Vocabulary) -> dict[str, object]:
    """The lines of its `merges.txt`, from which all else follows."""
    return {"_class_name": "CLIPTokenizer", "merges": merges_text(vocabulary)}
