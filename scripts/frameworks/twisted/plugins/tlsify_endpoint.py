"""Plugin of Twisted, which Daphne finds: the endpoint ``tlsify:``."""

from tlsify.integrations.twisted import EndpointParser

parser = EndpointParser()
