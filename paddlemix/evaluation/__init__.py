"""Evaluation: the published benchmarks of Qwen-VL, and two small ones that come along.

What is asked and how it is scored, without Paddle:

``records``       a question, an answer, a score
``prompts``       what the model is asked, text for text as published
``sampling``      which questions, which examples before them: by hashes, the same for everyone
``metrics``       one file each, pure functions on plain values
``benchmarks``    what belongs to a benchmark: data, prompt, limits, metric, published scores
``data``          readers, converters and checks of data files
``answers``       the option that an answer chooses
``statistics``    intervals
``submissions``   files for the servers that keep the truth to themselves
``listing``       the benchmarks as a table

A run and what comes of it:

``tasks``         what is to be done, found out before a model is loaded
``settings``      what two runs must have in common
``shards``        parts for several processes or machines
``run``           every question asked once, every answer written at once
``backends``      the engine in this process, or a server
``answer_files``  answers as JSON lines
``progress``      how far a run is, and its score so far
``scoring``       scores from answers alone
``imported``      answers out of other programs' result files
``judge``         another model compares answers
"""
