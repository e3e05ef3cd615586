"""An outside witness of a relay whose machine loses power.

It publishes signed events over WebSocket, writes down what it was answered, and after the cut asks
what is left. It knows Nostr and nothing about Turnpike: no code, no file and no format of the
product is used here, so that an error of the product cannot be repeated by its judge.

`wire` is the WebSocket client, `ledger` what was sent and answered, `judge` what must and must not
be served after that, `load` and `audit` the traffic, `trial` the cycle of load, cut and audit over a
"box" that can be cut: `lazyfs/run` and `powercut/run` are the two boxes.

Python's standard library only.
"""
