# The parts of Colab's package that this project uses; it cannot be installed elsewhere.
from google.colab import drive as drive
from google.colab import files as files
from google.colab import userdata as userdata
