//! Python's symbols that the extension module refers to, so that it loads without Python. None of them is ever used: the
//! module's own entry point, which would call them, is not run.
//!
//! The list is that of `nm --dynamic --undefined-only` on the module of `onnxruntime-training-cpu` 1.19.2.

/// A function that ends the process: there is no Python to go on with.
macro_rules! functions {
    ($($name:ident),* $(,)?) => { $(
        #[unsafe(no_mangle)]
        extern "C" fn $name() -> ! {
            eprintln!("onnxruntime-training-shim: ONNX Runtime called {}, but there is no Python here", stringify!($name));
            std::process::abort()
        }
    )* };
}

/// An object of zeros, larger than any of Python's type objects.
macro_rules! objects {
    ($($name:ident),* $(,)?) => { $(
        #[unsafe(no_mangle)]
        static $name: [usize; 128] = [0; 128];
    )* };
}

functions! {
    PyBool_FromLong, PyBuffer_Release, PyByteArray_AsString, PyByteArray_Size, PyBytes_AsString, PyBytes_AsStringAndSize,
    PyBytes_FromStringAndSize, PyBytes_Size, PyCMethod_New, PyCallable_Check, PyCapsule_GetContext, PyCapsule_GetName, PyCapsule_GetPointer,
    PyCapsule_New, PyCapsule_SetContext, PyCapsule_SetName, PyCapsule_SetPointer, PyDict_Contains, PyDict_Copy, PyDict_DelItemString,
    PyDict_GetItemWithError, PyDict_New, PyDict_Next, PyDict_Size, PyErr_Clear, PyErr_ExceptionMatches, PyErr_Fetch, PyErr_Format,
    PyErr_NewException, PyErr_NormalizeException, PyErr_Occurred, PyErr_Print, PyErr_Restore, PyErr_SetString, PyErr_WriteUnraisable,
    PyEval_AcquireThread, PyEval_GetBuiltins, PyEval_RestoreThread, PyEval_SaveThread, PyException_SetCause, PyException_SetContext,
    PyException_SetTraceback, PyFloat_AsDouble, PyFloat_FromDouble, PyFrame_GetBack, PyFrame_GetCode, PyFrame_GetLineNumber, PyGILState_Check,
    PyGILState_Ensure, PyGILState_GetThisThreadState, PyGILState_Release, PyImport_ImportModule, PyIndex_Check, PyInstanceMethod_New,
    PyIter_Check, PyIter_Next, PyList_Append, PyList_GetItem, PyList_New, PyList_Size, PyLong_AsLong, PyLong_AsLongLong, PyLong_AsUnsignedLong,
    PyLong_FromLong, PyLong_FromSize_t, PyLong_FromSsize_t, PyMem_Calloc, PyMem_Free, PyModule_AddObject, PyModule_Create2, PyNumber_And,
    PyNumber_Check, PyNumber_Float, PyNumber_Invert, PyNumber_Long, PyNumber_Or, PyNumber_Xor, PyObject_CallFunctionObjArgs, PyObject_CallObject,
    PyObject_ClearWeakRefs, PyObject_GC_UnTrack, PyObject_GenericGetDict, PyObject_GenericSetDict, PyObject_GetAttrString, PyObject_GetItem,
    PyObject_GetIter, PyObject_HasAttrString, PyObject_IsInstance, PyObject_Malloc, PyObject_Repr, PyObject_RichCompareBool, PyObject_SetAttr,
    PyObject_SetAttrString, PyObject_SetItem, PyObject_Str, PySequence_Check, PySequence_GetItem, PySequence_Size, PySequence_Tuple, PySet_Add,
    PySet_New, PySet_Size, PyStaticMethod_New, PyThreadState_Clear, PyThreadState_DeleteCurrent, PyThreadState_Get, PyThreadState_New,
    PyThread_tss_alloc, PyThread_tss_create, PyThread_tss_get, PyThread_tss_set, PyTuple_GetItem, PyTuple_New, PyTuple_SetItem, PyTuple_Size,
    PyType_IsSubtype, PyType_Ready, PyUnicode_AsEncodedString, PyUnicode_AsUTF8, PyUnicode_AsUTF8AndSize, PyUnicode_AsUTF8String,
    PyUnicode_DecodeUTF8, PyUnicode_FromFormat, PyUnicode_FromKindAndData, PyUnicode_FromString, PyWeakref_NewRef, Py_BuildValue, Py_GetVersion,
    _PyObject_GetDictPtr, _PyThreadState_UncheckedGet, _PyType_Lookup, _Py_Dealloc,
}

objects! {
    PyBaseObject_Type, PyByteArray_Type, PyCFunction_Type, PyCapsule_Type, PyDict_Type, PyExc_BufferError, PyExc_Exception, PyExc_ImportError,
    PyExc_IndexError, PyExc_MemoryError, PyExc_ModuleNotFoundError, PyExc_OverflowError, PyExc_RuntimeError, PyExc_StopIteration,
    PyExc_SystemError, PyExc_TypeError, PyExc_ValueError, PyFloat_Type, PyFrozenSet_Type, PyInstanceMethod_Type, PyMethod_Type, PyModule_Type,
    PyObject_Type, PyProperty_Type, PySet_Type, PyStaticMethod_Type, PyType_Type, _Py_FalseStruct, _Py_NoneStruct, _Py_NotImplementedStruct,
    _Py_TrueStruct,
}
