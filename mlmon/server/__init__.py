"""The reference server of masked language models: fill-mask, embeddings and scores over HTTP, watched "
"by mlmon.

    model/   weights, packed encoder, mask head (torch; no threads, no HTTP)
    work/    what is wanted of texts, and the one thread that owns the device (no HTTP)
    web/     routes, limits, authentication, probes

`app` puts them together, `config` says how. Nothing here is imported by the sidecar; torch is loaded only
where it computes.
"""
