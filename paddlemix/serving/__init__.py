"""An HTTP server that speaks OpenAI's and Anthropic's protocols over one engine.

Imports the engine's plain types, never Paddle: the model lives in the engine's thread.

``settings``       what the server is told when it starts: limits, keys, hosts
``errors``         one type for everything that is answered with an error, and its two shapes
``middleware``     request ids, keys, Host, size of bodies, access log: before any route
``admission``      places in the queue, taken before a body is read
``bodies``         from a request's bytes to a checked body
``schemas``        the bodies' fields and ranges
``content``        messages of either protocol to the project's own
``tools``          function calls in the ReAct form that Qwen-VL knows
``prompts``        messages to ids and prepared images
``sampling``       fields of a body to the engine's sampling parameters and grammar
``engine_client``  requests to the engine's thread and outputs back to the event loop
``answers``        outputs to texts, boxes, log probabilities and usage
``sse``            server-sent events: pings, slow and vanished clients
``metrics``        Prometheus
``app``            all of it together; ``routes_*`` are the endpoints
``page/``          the web page: HTML, a style sheet, ES modules; ``routes_page`` serves it
``http_protocol``  bounds on the head of a request
``loading``        from a model's name to the engine's thread
``lifecycle``      running under uvicorn, draining on SIGTERM
``replicas/``      several engines behind one address, through Ray Serve
``capacity``       how many users a machine serves, estimated
"""
