"""What only two keys together can tell of policies."""

from config.yaml_lines import Document


def check(document: Document) -> None:
    """Add to the document's problems."""
