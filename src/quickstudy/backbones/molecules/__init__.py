"""Networks that read molecules: see :mod:`quickstudy.datasets.smiles` for their inputs."""
