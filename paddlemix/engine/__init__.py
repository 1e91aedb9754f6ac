"""Generation, without knowledge of any model: options, sampling, stopping, incremental detokenization.

``options``      what a caller may ask of generation, checked
``sampling``     from logits to tokens
``stopping``     when an answer ends: stop ids, sequences, strings
``detokenizer``  text from token ids as they come
"""
