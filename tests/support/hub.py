"""Answers of a hub that is not there."""


def response(status):
    import httpx

    return httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co/x"))
