"""HTTP: routes, bodies, limits, authentication, probes and the OpenAPI document.

bodies, bodies_v2       what requests and answers look like
hf, openai, oip, ops    the routes, by family
serving                 what all inference routes share: read, encode, wait, answer
replies                 answers and refusals as HTTP
guard                   the bearer token
routes                  the table of all routes, and the document made from it
"""
