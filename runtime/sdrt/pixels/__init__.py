"""Pictures in memory and in files. The only home of Pillow."""
