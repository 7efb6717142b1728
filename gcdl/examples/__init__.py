"""Scripts to run, read and copy: ``python -m gcdl.examples.digits``, or ``mpirun -n 5 python -m gcdl.examples.digits``.

============  =====================================================================================
digits        the first model of README.md, on scikit-learn's digits
fashion_cnn   a CNN on Fashion-MNIST, with stragglers, evaluation and early stopping
char_gpt      a character-level Transformer on Python's own documentation: one bit against float32
topics        samples that are dicts, padded by collate_fn; parameter groups, epochs, bfloat16, early stopping, --resume
mapped_file   logistic regression on a memory-mapped file, of which a worker reads its share
notebook      three codes under the same stragglers, compared in one process
============  =====================================================================================

Each takes ``--help``.
"""
