"""The one reader of each format of the book, for the site and for the proof.

Functions take the root of a repository, so that they read the real tree and trees with planted
faults alike.
"""
