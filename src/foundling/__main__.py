"""`python -m foundling`, where the script is not on the path."""

from foundling.cli.main import main

if __name__ == "__main__":
    main()
