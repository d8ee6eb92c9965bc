"""`python -m deeprebirth_caffe`: the command `rebirth`, for where scripts are not on the path."""

from deeprebirth_caffe.isolation import leave_out_current_folder

if __name__ == "__main__":
    leave_out_current_folder()  # before anything is imported that a file there could stand in for

    from deeprebirth_caffe.start import main

    main()
