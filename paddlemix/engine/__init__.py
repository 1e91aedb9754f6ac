"""Generation, without knowledge of any model.

``request``      what goes into the engine and comes out of it
``thread``       the engine in a thread of its own
``options``      what a caller may ask of generation, checked
``sampling``     from logits to tokens
``stopping``     when an answer ends: stop ids, sequences, strings
``detokenizer``  text from token ids as they come
"""
