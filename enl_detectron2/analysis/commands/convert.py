"""Writes the model of a checkpoint (.pth, .pkl, .pyth, .safetensors) as .safetensors or .pth."""

import argparse


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", help="the checkpoint; nothing in it is run")
    parser.add_argument("target", help="a new file that ends in .safetensors or .pth")
    args = parser.parse_args(words)

    from enl_detectron2.training.checkpoint_files import convert_checkpoint

    convert_checkpoint(args.source, args.target)
