"""Trained detectors for programs without detectron2: TorchScript and ONNX, compared before use."""

from .export import Export, export_backbone, export_detector, photographs
from .graphs import ExportedDetector, NotExportable, script, trace, write_onnx

__all__ = [
    "Export",
    "ExportedDetector",
    "NotExportable",
    "export_backbone",
    "export_detector",
    "photographs",
    "script",
    "trace",
    "write_onnx",
]
