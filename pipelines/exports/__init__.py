"""What a run or a checkpoint gives to other programs: annotations for QuPath, the generator as ONNX."""
