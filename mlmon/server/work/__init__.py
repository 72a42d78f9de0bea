"""What is wanted of texts, and the one thread that owns the device. No HTTP.

text, windows                    texts to token ids; long ones cut or read in windows
pieces, jobs                     what goes through the model together, and whose it is
fill_mask, embed, score          from texts to pieces, and from what the model says to answers
lanes, scheduler, runner         whose turn it is; the thread; one batch through the model
waiting                          an asyncio request waits for its job
"""
