"""`python -m quintet`: the program `quintet`, for where only Python is on the path."""

from quintet.cli import main

if __name__ == "__main__":
    main()
