"""Lines that commands print about their result, with a label in front."""


def labelled(label: str, text: object) -> str:
    """A line whose text stands below that of other such lines."""
    return f"{label:<11} {text}"
