"""Stand-in models (being written)."""
from pathlib import Path


def write_standins(directory: Path) -> None:
    """Write the stand-in models."""
