"""The tests of the library, the notebooks, and the site."""
