/* Copies of stacks, each made in one step of the interpreter's.
 *
 * To walk another thread's frames in Python is not safe in 3.11: between two steps the GIL may change hands, and a frame
 * that has returned meanwhile can keep a pointer to the one that it returned to, which is gone (a crash in
 * PyFrame_GetBack; gh-99110 and what came after it). Here nothing between the first and the last step releases the GIL:
 * no Python code runs, nothing is waited for, and the garbage collector, which could run some, is held meanwhile.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <frameobject.h>

static PyObject *current_frames; /* sys._current_frames */
static PyObject *names[2][3];    /* of a coroutine and of a generator: frame, whether it runs, what it waits for */

/* (code, line, instruction) of a frame */
static PyObject *
described(PyFrameObject *frame)
{
    PyCodeObject *code = PyFrame_GetCode(frame);
    return Py_BuildValue("Nii", (PyObject *)code, PyFrame_GetLineNumber(frame), PyFrame_GetLasti(frame));
}

static int
append(PyObject *list, PyObject *item)
{
    int failed = item == NULL || PyList_Append(list, item) < 0;
    Py_XDECREF(item);
    return failed ? -1 : 0;
}

static PyObject *
walked(PyFrameObject *frame, int depth)
{
    PyObject *stack = PyList_New(0);
    Py_INCREF(frame);
    while (stack != NULL && frame != NULL && depth-- > 0) {
        if (append(stack, described(frame)) < 0)
            Py_CLEAR(stack);
        PyFrameObject *back = PyFrame_GetBack(frame);
        Py_DECREF(frame);
        frame = back;
    }
    Py_XDECREF(frame);
    return stack;
}

static PyObject *
threads(PyObject *module, PyObject *argument)
{
    long depth = PyLong_AsLong(argument);
    if (depth == -1 && PyErr_Occurred())
        return NULL;
    int collecting = PyGC_Disable();
    PyObject *found = NULL, *frames = PyObject_CallNoArgs(current_frames);
    if (frames != NULL && (found = PyDict_New()) != NULL) {
        PyObject *thread, *frame;
        Py_ssize_t position = 0;
        while (found != NULL && PyDict_Next(frames, &position, &thread, &frame)) {
            PyObject *stack = walked((PyFrameObject *)frame, (int)depth);
            if (stack == NULL || PyDict_SetItem(found, thread, stack) < 0)
                Py_CLEAR(found);
            Py_XDECREF(stack);
        }
    }
    Py_XDECREF(frames);
    if (collecting)
        PyGC_Enable();
    return found;
}

/* An attribute, or NULL without an error where there is none. */
static PyObject *
attribute(PyObject *object, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(object, name);
    if (value == NULL && PyErr_ExceptionMatches(PyExc_AttributeError))
        PyErr_Clear();
    if (value == Py_None)
        Py_CLEAR(value);
    return value;
}

static PyObject *
awaited(PyObject *module, PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "awaited(coroutine, depth)");
        return NULL;
    }
    long depth = PyLong_AsLong(arguments[1]);
    if (depth == -1 && PyErr_Occurred())
        return NULL;
    int collecting = PyGC_Disable(), runs = 0;
    PyObject *stack = PyList_New(0), *waiting = Py_NewRef(arguments[0]);
    while (stack != NULL && waiting != NULL && depth-- > 0) {
        /* Only of these two kinds are the attributes C code of Python's own. */
        int kind = PyCoro_CheckExact(waiting) ? 0 : PyGen_CheckExact(waiting) ? 1 : -1;
        PyObject *frame = kind < 0 ? NULL : attribute(waiting, names[kind][0]);
        if (frame == NULL)
            break;
        PyObject *running = attribute(waiting, names[kind][1]);
        runs = running == Py_True;
        Py_XDECREF(running);
        if (!runs && append(stack, described((PyFrameObject *)frame)) < 0)
            Py_CLEAR(stack);
        Py_DECREF(frame);
        if (runs)
            break;
        Py_SETREF(waiting, attribute(waiting, names[kind][2]));
    }
    Py_XDECREF(waiting);
    if (collecting)
        PyGC_Enable();
    if (runs && stack != NULL)
        Py_SETREF(stack, Py_NewRef(Py_None));
    if (PyErr_Occurred())
        Py_CLEAR(stack);
    return stack;
}

static PyMethodDef methods[] = {
    {"threads", threads, METH_O,
     "threads(depth): the stack of each thread by its ident, as (code, line, instruction), innermost first."},
    {"awaited", (PyCFunction)(void (*)(void))awaited, METH_FASTCALL,
     "awaited(coroutine, depth): what it waits for, outermost first, in the same way; None while it runs."},
    {NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_frames", NULL, -1, methods};

PyMODINIT_FUNC
PyInit__frames(void)
{
    static const char *const texts[2][3] = {
        {"cr_frame", "cr_running", "cr_await"}, {"gi_frame", "gi_running", "gi_yieldfrom"},
    };
    for (int kind = 0; kind < 2; kind++)
        for (int which = 0; which < 3; which++)
            if ((names[kind][which] = PyUnicode_InternFromString(texts[kind][which])) == NULL)
                return NULL;
    current_frames = Py_XNewRef(PySys_GetObject("_current_frames"));
    if (current_frames == NULL) {
        PyErr_SetString(PyExc_ImportError, "no sys._current_frames");
        return NULL;
    }
    return PyModule_Create(&definition);
}
