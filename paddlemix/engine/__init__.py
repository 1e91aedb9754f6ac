"""Generation, without knowledge of any model.

Text generation in general:

``options``      what a caller may ask of generation, checked
``inputs``       prompts as arrays of ids, and their padding
``stopping``     when an answer ends: stop ids and sequences
``detokenizer``  text from token ids as they come

Answers, one or many at once:

``request``      what goes into the engine and comes out of it
``thread``       the engine in a thread of its own, for a server
``local``        the engine stepped by whoever waits for an answer
``engine``       one step after the other
``config``       its sizes
``admission``    what of a request is checked beforehand
``scheduler``    who gets blocks, and whose turn it is
``sequence``     a request on its way
``blocks``       the blocks of the cache: free, cached or owned
``content``      what they hold, compared and hashed
``cache``        these blocks and the memory for them, which grows
``vision``       images: encoded in slices, kept by content
``sampler``      from the logits of one row to its next token
``prompt_lookup``  proposals from what stood behind the same ids before
``grammar``      answers of a given form
``parallel_runner``  a split model: the first process has the engine, the others follow
``protocols``    what is asked of a model and of a tokenizer
"""
