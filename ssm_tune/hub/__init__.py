"""Files of the Hugging Face hub: download and the manifest of downloaded files."""
