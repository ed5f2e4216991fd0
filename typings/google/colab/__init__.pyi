# The part of Colab's own package that this project uses; it cannot be installed outside Colab.
from google.colab import drive as drive
from google.colab import files as files
from google.colab import userdata as userdata
