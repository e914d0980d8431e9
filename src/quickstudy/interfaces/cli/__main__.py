"""``python -m quickstudy.interfaces.cli``: the same as ``quickstudy``."""

from quickstudy.interfaces.cli import main

main()
