"""Evaluation: the published benchmarks of Qwen-VL, and two small ones that come along.

``records``      a question, an answer, a score
``prompts``      what the model is asked, text for text as published
``sampling``     which questions, which examples before them: by hashes, the same for everyone
``statistics``   intervals
``metrics``      one file each, pure functions on plain values
``benchmarks``   what belongs to a benchmark: data, prompt, limits, metric, published scores
``data``         readers, converters and checks of data files
``submissions``  files for the servers that keep the answers to themselves
"""
