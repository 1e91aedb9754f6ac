"""Generation, without knowledge of any model.

Text generation in general:

``options``      what a caller may ask of generation, checked
``inputs``       prompts as arrays of ids, and their padding
``sampling``     from logits to tokens, a batch at a time on its device
``stopping``     when an answer ends: stop ids, sequences, strings
``detokenizer``  text from token ids as they come

Many requests at once:

``request``      what goes into the engine and comes out of it
``thread``       the engine in a thread of its own
``engine``       one step after the other
``admission``    what of a request is checked beforehand
``scheduler``    who gets blocks, and whose turn it is
``sequence``     a request on its way
``blocks``       the blocks of the cache: free, cached or owned
``vision``       images: encoded in slices, kept by content
``sampler``      from the logits of one row to its next token
``prompt_lookup``  proposals from what stood behind the same ids before
``grammar``      answers of a given form
``protocols``    what is asked of a model and of a tokenizer
"""
