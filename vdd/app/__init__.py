"""A page to look at: an image and a question in; plain, debiased and post-hoc answers side by side, written live.

    house     models by name, one answer at a time, who asked last
    answers   a question → what is known so far, again and again, from a thread of its own
    compared  the labels, or first words, with the image, without it, and with the habit divided out
    cards     what is known so far → HTML
    examples  scenes of the embedded world with questions
    received  what a visitor sent, looked at with suspicion
    look      the style sheet
    page      the page itself, by Gradio (extra `app`)
    gate      what a browser may ask of the server, and what the page may ask of the world
    server    the page on an address

Knows: a pipeline. Does not know: the command line.
"""
