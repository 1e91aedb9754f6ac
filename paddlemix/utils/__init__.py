"""What every package uses and what knows nothing of models.

``validation``       checks of arguments
``files``            reading text and JSON that users hand in; writing files atomically
``foreign_file``     what a file is that is not what it should be: a Git LFS pointer, an HTML page, an archive
``display``          text from outside, escaped and shortened for a terminal
``dependencies``     optional packages, with an error that says what to install
``lazy``             public names that are imported on first use
``parameter_names``  patterns over the names of layers and parameters
``schema``           tables of fields with types and ranges
``json_text``        JSON from outside, bounded in size and depth
``progress``         one progress bar for loading, converting, verifying
``device``           which device to compute on
``allocator``        keeping freed memory for the next step
``paddle_internals`` what is used of Paddle beyond its public interface
``mkl``              Paddle's MKL on AMD processors
``denormals``        flushing denormal numbers to zero
"""
