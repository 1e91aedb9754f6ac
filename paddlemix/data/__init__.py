"""From conversation files to batches, for training, evaluation and calibration.

records      files to records, each with its source location; reads json_values, formats, boxes
formats      the record formats: this project's, LLaVA's, ms-swift's, LLaMA-Factory's
boxes        coordinate formats of boxes, converted to thousandths
checks       validation of every record before the first step; problems and images help
encoding     a record to input ids and labels
dataset      records encoded on demand, and the eval split
batching     the plan of an epoch: which records are in which batch of which step
collation    encoded records to the arrays of a batch
loading      batches from worker processes
calibration  records as model inputs, for quantization
"""
