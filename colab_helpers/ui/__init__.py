"""The user interface: notebook cells, panel, progress, and the host (Colab, IPython, or a plain shell)."""
