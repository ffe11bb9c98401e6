/* What features have to do with the garbage collector and cannot do in Python without harm.
 *
 * call() calls Python callbacks of the collector without taking from the app what its signal handlers raise.
 * A signal that arrives while the collector runs is handled at the next instruction of Python: that is a callback's
 * first, and what the handler raises there (a time limit, an interrupt, an exit) would be printed and dropped by the
 * collector. So signals are handled before the callbacks begin, and what they raise is raised again in the main thread
 * after the collection; so is what the handler of one raises that comes while a callback runs.
 *
 * find() looks for objects while nothing else runs. A list of all objects that lives for longer breaks code that makes
 * a tuple step by step: tuple(generator) raises SystemError in another thread, since somebody else has its tuple.
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

/* What has been raised, as one object with its traceback. */
static PyObject *
fetched(void)
{
    PyObject *type, *error, *traceback;
    PyErr_Fetch(&type, &error, &traceback);
    PyErr_NormalizeException(&type, &error, &traceback);
    if (traceback != NULL)
        PyException_SetTraceback(error, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return error;
}

static void
restore(PyObject *error) /* which is taken */
{
    PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(error)), error, PyException_GetTraceback(error));
}

/* call(callbacks, is_of_signal, phase, info): all of them, one after the other. */
static PyObject *
call(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    if (count != 4 || !PyList_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "call() takes a list of callbacks and what the collector tells them");
        return NULL;
    }
    PyObject *raised = NULL; /* by handlers of signals; of several the first */
    if (PyErr_CheckSignals() < 0)
        raised = fetched();
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(args[0]); i++) {
        PyObject *callback = Py_NewRef(PyList_GET_ITEM(args[0], i));
        PyObject *done = PyObject_Vectorcall(callback, args + 2, 2, NULL);
        if (done == NULL) {
            PyObject *error = fetched(), *is_of_signal = PyObject_CallOneArg(args[1], error);
            if (is_of_signal == NULL) /* another signal has come */
                PyErr_Clear();
            if (raised == NULL && is_of_signal != Py_False)
                raised = Py_NewRef(error);
            else {
                restore(Py_NewRef(error));
                PyErr_WriteUnraisable(callback);
            }
            Py_XDECREF(is_of_signal);
            Py_DECREF(error);
        }
        Py_XDECREF(done);
        Py_DECREF(callback);
    }
    if (raised == NULL)
        Py_RETURN_NONE;
    /* Not before: the first instruction of a callback would have raised it. */
    if (Py_AddPendingCall(raise_again, raised) < 0) { /* 32 wait already: the collector prints it */
        restore(raised);
        return NULL;
    }
    Py_RETURN_NONE;
}

static int
is_one_of(PyObject *kinds, PyTypeObject *type)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(kinds); i++)
        if (PyTuple_GET_ITEM(kinds, i) == (PyObject *)type)
            return 1;
    return 0;
}

/* find(kinds, most): the first so many objects of these types, and the last so many. */
static PyObject *
find(PyObject *module, PyObject *args)
{
    PyObject *kinds;
    Py_ssize_t most;
    if (!PyArg_ParseTuple(args, "O!n:find", &PyTuple_Type, &kinds, &most))
        return NULL;
    PyObject *found = PyList_New(0), *gc = PyImport_ImportModule("gc"), *all = NULL;
    if (found == NULL || gc == NULL)
        goto failed;
    all = PyObject_CallMethod(gc, "get_objects", NULL);
    if (all == NULL || !PyList_Check(all))
        goto failed;
    /* From here on nothing is allocated that may run the collector, and no instruction of Python's runs. */
    Py_ssize_t first = 0, last = PyList_GET_SIZE(all);
    for (Py_ssize_t count = 0; first < last && count < most; first++)
        if (is_one_of(kinds, Py_TYPE(PyList_GET_ITEM(all, first)))) {
            count++;
            if (PyList_Append(found, PyList_GET_ITEM(all, first)) < 0)
                goto failed;
        }
    for (Py_ssize_t count = 0; first < last && count < most; last--)
        if (is_one_of(kinds, Py_TYPE(PyList_GET_ITEM(all, last - 1)))) {
            count++;
            if (PyList_Append(found, PyList_GET_ITEM(all, last - 1)) < 0)
                goto failed;
        }
    Py_DECREF(all);
    Py_DECREF(gc);
    return found;
failed:
    Py_XDECREF(all);
    Py_XDECREF(gc);
    Py_XDECREF(found);
    return NULL;
}

static PyMethodDef functions[] = {
    {"find", (PyCFunction)find, METH_VARARGS, "find(kinds, most)"},
    {"call", (PyCFunction)(void (*)(void))call, METH_FASTCALL, "call(callbacks, is_of_signal, phase, info)"},
    {NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_collector", NULL, 0, functions};

PyMODINIT_FUNC
PyInit__collector(void)
{
    return PyModule_Create(&definition);
}
