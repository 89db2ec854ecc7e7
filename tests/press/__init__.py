"""The press: programs that prove, check and prepare the book."""
