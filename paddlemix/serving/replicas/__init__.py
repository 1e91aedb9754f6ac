"""Several replicas of a model behind one address, on one machine or many, through Ray Serve.

``calls``        a request and its answer as plain values that cross processes
``sessions``     which replica a conversation belongs to
``gateway``      the application in front: checks, places, forwarding, errors; knows nothing of Ray
``expositions``  the metrics of all replicas in one text
``placement``    processors of a replica: of one NUMA node, none shared
``options``      what is deployed
``router``       Ray Serve's choice of a replica, by session
``deployments``  the application as Ray Serve runs it
``lifecycle``    starting it, deploying it anew, and stopping it without losing an answer

Ray is imported by the last three alone.
"""
