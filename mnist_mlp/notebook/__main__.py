"""`python -m mnist_mlp.notebook` makes tutorial.ipynb anew from tutorial.py, beside a folder `data` with MNIST."""

from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

SOURCE = Path(__file__).with_name("tutorial.py")
NOTEBOOK = SOURCE.with_suffix(".ipynb")
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def convert(source: str) -> NotebookNode:
    """The notebook of a text in jupytext's percent format, not executed."""
    notebook = jupytext.reads(source, "py:percent")
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # in place of a random one, which would differ each time
    return notebook


if __name__ == "__main__":
    notebook = convert(SOURCE.read_text(encoding="utf-8"))
    NotebookClient(notebook, record_timing=False).execute()
    nbformat.write(notebook, NOTEBOOK)
