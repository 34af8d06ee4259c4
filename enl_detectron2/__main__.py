"""``python -m enl_detectron2`` is the command ``enl``."""

from enl_detectron2.cli import main

if __name__ == "__main__":
    main()
