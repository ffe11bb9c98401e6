/* Calls Python callbacks of the garbage collector without taking from the app what its signal handlers raise.
 *
 * A signal that arrives while the collector runs is handled at the next instruction of Python: that is a callback's
 * first, and what the handler raises there (a time limit, an interrupt, an exit) would be printed and dropped by the
 * collector. So signals are handled before the callbacks begin, and what they raise is raised again in the main thread
 * after the collection.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

static int
raise_again(void *error)
{
    PyErr_SetObject((PyObject *)Py_TYPE((PyObject *)error), (PyObject *)error);
    Py_DECREF((PyObject *)error);
    return -1;
}

/* call(callbacks, phase, info): all of them, one after the other. */
static PyObject *
call(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    PyObject *type = NULL, *error = NULL, *traceback = NULL;
    if (count != 3 || !PyList_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "call() takes a list of callbacks and what the collector tells them");
        return NULL;
    }
    if (PyErr_CheckSignals() < 0) {
        PyErr_Fetch(&type, &error, &traceback);
        PyErr_NormalizeException(&type, &error, &traceback);
        if (traceback != NULL)
            PyException_SetTraceback(error, traceback);
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(args[0]); i++) {
        PyObject *callback = Py_NewRef(PyList_GET_ITEM(args[0], i));
        PyObject *done = PyObject_Vectorcall(callback, args + 1, 2, NULL);
        if (done == NULL)
            PyErr_WriteUnraisable(callback);
        Py_XDECREF(done);
        Py_DECREF(callback);
    }
    if (error == NULL)
        Py_RETURN_NONE;
    /* Not before: the first instruction of a callback would have raised it. */
    if (Py_AddPendingCall(raise_again, Py_NewRef(error)) < 0) { /* 32 wait already: the collector prints it */
        Py_DECREF(error);
        PyErr_Restore(type, error, traceback);
        return NULL;
    }
    Py_XDECREF(type);
    Py_XDECREF(error);
    Py_XDECREF(traceback);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"call", (PyCFunction)(void (*)(void))call, METH_FASTCALL, "call(callbacks, phase, info)"},
    {NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_shield", NULL, 0, functions};

PyMODINIT_FUNC
PyInit__shield(void)
{
    return PyModule_Create(&definition);
}
