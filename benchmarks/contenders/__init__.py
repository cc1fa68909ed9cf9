"""What is measured, one module a kind; each is opened in a process of its own by `benchmarks.worker`.

A module has `open_model(options, threads)`, whose result has some of:

    answer(rows, all_logits) → (rows, labels or words), the logits of a batch of `Row`s
    answer_all(rows)         → the same for many rows, batched as the contender likes best
    answer_texts(texts)      → an answer for each text
    generate(prompts, n)     → n new ids for each prompt, greedily
"""
