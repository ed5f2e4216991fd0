"""What people see: notebook cells, progress, pictures, and the one door to Colab and IPython."""
