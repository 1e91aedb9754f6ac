"""From files of conversations to batches: reading, checking, encoding, planning an epoch, collating.

formats     what a record of each project says, and which placeholders are none
boxes       boxes of other conventions as thousandths
records     files to records, each with its file and line
checks      everything that can be wrong with a record, found before the first step
encoding    a record to ids and labels
dataset     what training and evaluation read: sources, the split, records encoded on demand
batching    which records stand in which batch of which step, decided before an epoch begins
collation   encoded records to the arrays of a batch
"""
