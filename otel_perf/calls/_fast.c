/* The compiled twin of pure.py: the same fields and the same two methods, for a third of the time.
 *
 * Everything between reading a count and writing it back runs under the GIL without running Python code, so that no
 * call is lost under threads. Linux only: the clock is CLOCK_MONOTONIC, which is time.perf_counter's there.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <structmember.h>
#include <time.h>

#define OFFSET 240  /* as keys.OFFSET */
#define BUCKETS 400 /* as keys.BUCKETS */

static PyObject *variable;     /* the ContextVar of the current context */
static PyObject *context_type; /* opentelemetry.context.Context */
static PyObject *span_key, *call_key, *no_arguments;
static PyObject *test_clock; /* NULL, but in tests */
static PyObject *name_counts, *name_settle, *name_outlived;

static int
clock_read(double *now)
{
    if (test_clock != NULL) {
        PyObject *value = PyObject_CallNoArgs(test_clock);
        if (value == NULL)
            return -1;
        *now = PyFloat_AsDouble(value);
        Py_DECREF(value);
        return *now == -1.0 && PyErr_Occurred() ? -1 : 0;
    }
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    *now = (double)at.tv_sec + (double)at.tv_nsec * 1e-9;
    return 0;
}

/* --- the counts of one function ------------------------------------------------------------------ */

typedef struct {
    PyObject_HEAD
    long long count, untimed, errors;
    double total, self_total, minimum, maximum, slow;
    unsigned long long buckets[BUCKETS];
} Counts;

static PyTypeObject CountsType;

static PyObject *
counts_reset(Counts *self, PyObject *Py_UNUSED(ignored))
{
    self->count = self->untimed = self->errors = 0;
    self->total = self->self_total = self->maximum = 0.0;
    self->minimum = Py_HUGE_VAL;
    memset(self->buckets, 0, sizeof self->buckets);
    Py_RETURN_NONE;
}

static PyObject *
counts_buckets(Counts *self, void *Py_UNUSED(closure))
{
    PyObject *list = PyList_New(BUCKETS);
    for (int i = 0; list != NULL && i < BUCKETS; i++) {
        PyObject *value = PyLong_FromUnsignedLongLong(self->buckets[i]);
        if (value == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, value);
    }
    return list;
}

static PyMemberDef counts_members[] = {
    {"count", T_LONGLONG, offsetof(Counts, count), 0, NULL},
    {"untimed", T_LONGLONG, offsetof(Counts, untimed), 0, NULL},
    {"errors", T_LONGLONG, offsetof(Counts, errors), 0, NULL},
    {"total", T_DOUBLE, offsetof(Counts, total), 0, NULL},
    {"self_total", T_DOUBLE, offsetof(Counts, self_total), 0, NULL},
    {"minimum", T_DOUBLE, offsetof(Counts, minimum), 0, NULL},
    {"maximum", T_DOUBLE, offsetof(Counts, maximum), 0, NULL},
    {"slow", T_DOUBLE, offsetof(Counts, slow), 0, NULL},
    {NULL},
};
static PyGetSetDef counts_getset[] = {{"buckets", (getter)counts_buckets, NULL, NULL, NULL}, {NULL}};
static PyMethodDef counts_methods[] = {{"reset", (PyCFunction)counts_reset, METH_NOARGS, NULL}, {NULL}};

static PyTypeObject CountsType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "otel_perf.calls._fast.CountsBase",
    .tp_basicsize = sizeof(Counts),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_members = counts_members,
    .tp_getset = counts_getset,
    .tp_methods = counts_methods,
};

/* --- one call ------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *function, *counts, *caller, *parent, *pending, *real, *token;
    double children, end, since, start;
    long long under_way;
} Call;

static PyTypeObject CallType;

static int
call_traverse(Call *self, visitproc visit, void *arg)
{
    Py_VISIT(self->function);
    Py_VISIT(self->counts);
    Py_VISIT(self->caller);
    Py_VISIT(self->parent);
    Py_VISIT(self->pending);
    Py_VISIT(self->real);
    Py_VISIT(self->token);
    return 0;
}

static int
call_clear(Call *self)
{
    Py_CLEAR(self->function);
    Py_CLEAR(self->counts);
    Py_CLEAR(self->caller);
    Py_CLEAR(self->parent);
    Py_CLEAR(self->pending);
    Py_CLEAR(self->real);
    Py_CLEAR(self->token);
    return 0;
}

static void
call_dealloc(Call *self)
{
    PyObject_GC_UnTrack(self);
    call_clear(self);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

/* A monitored call begins under `caller`, at `now`. */
static int
entered(PyObject *caller, double now)
{
    Call *call = (Call *)caller;
    if (call->end != 0.0) {
        PyObject *done = PyObject_CallMethodNoArgs(caller, name_outlived);
        Py_XDECREF(done);
        return done == NULL ? -1 : 0;
    }
    if (call->under_way++ == 0)
        call->since = now;
    return 0;
}

/* One under `caller` ends. */
static void
left(Call *caller, double now)
{
    if (--caller->under_way == 0)
        caller->children += now - caller->since;
}

static int
begin(Call *self, PyObject *function, int is_span)
{
    PyObject *context = NULL, *caller = NULL, *inner = NULL, *counts;
    int failed = -1;

    if (self->function != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "a call begins once");
        return -1;
    }
    counts = PyObject_GetAttr(function, name_counts);
    if (counts == NULL)
        return -1;
    if (!PyObject_TypeCheck(counts, &CountsType)) {
        PyErr_SetString(PyExc_TypeError, "counts of another kind");
        Py_DECREF(counts);
        return -1;
    }
    self->counts = counts;
    self->function = Py_NewRef(function);
    if (PyContextVar_Get(variable, NULL, &context) < 0)
        return -1;
    if (context == NULL || !PyDict_Check(context)) {
        PyErr_SetString(PyExc_TypeError, "the current context is no Context");
        goto done;
    }
    caller = PyDict_GetItemWithError(context, call_key); /* borrowed, and kept by the context */
    if (caller == NULL && PyErr_Occurred())
        goto done;
    if (caller != NULL && PyObject_TypeCheck(caller, &CallType))
        self->caller = Py_NewRef(caller);
    inner = PyDict_Type.tp_new((PyTypeObject *)context_type, no_arguments, NULL); /* Context defines no __init__ */
    if (inner == NULL || (PyDict_GET_SIZE(context) > 0 && PyDict_Update(inner, context) < 0)
        || (is_span && PyDict_SetItem(inner, span_key, (PyObject *)self) < 0)
        || PyDict_SetItem(inner, call_key, (PyObject *)self) < 0)
        goto done;
    if (is_span)
        self->parent = Py_NewRef(context);
    self->token = PyContextVar_Set(variable, inner);
    if (self->token == NULL || clock_read(&self->start) < 0)
        goto done;
    failed = self->caller == NULL ? 0 : entered(self->caller, self->start);
done:
    Py_XDECREF(inner);
    Py_XDECREF(context);
    return failed;
}

static int
call_init(Call *self, PyObject *args, PyObject *kwargs)
{
    PyObject *function;
    int is_span = 1;
    if (PyTuple_GET_SIZE(args) == 1 && kwargs == NULL)
        function = PyTuple_GET_ITEM(args, 0);
    else if (!PyArg_ParseTuple(args, "O|p:Call", &function, &is_span))
        return -1;
    return begin(self, function, is_span);
}

static PyObject *
call_finish(Call *self, PyObject *Py_UNUSED(ignored))
{
    Counts *counts = (Counts *)self->counts;
    double end, duration;
    int index;

    if (counts == NULL || !PyObject_TypeCheck((PyObject *)counts, &CountsType) || clock_read(&end) < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_RuntimeError, "a call ends after it began");
        return NULL;
    }
    if (self->token != NULL && self->token != Py_None) {
        PyObject *token = self->token;
        self->token = NULL;
        /* ValueError: a coroutine that was stepped from several contexts, or is closed from another. */
        if (PyContextVar_Reset(variable, token) < 0)
            PyErr_Clear();
        Py_DECREF(token);
    }
    self->end = end;
    duration = end - self->start;
    if (self->under_way) /* a task that it started goes on */
        self->children += end - self->since;
    if (self->caller != NULL) {
        PyObject *caller = self->caller;
        self->caller = NULL;
        if (PyObject_TypeCheck(caller, &CallType))
            left((Call *)caller, end);
        Py_DECREF(caller);
    }
    index = (int)(8.0 * log2(duration > 0.0 ? duration : 1e-9) + OFFSET);
    counts->count++;
    counts->total += duration;
    counts->self_total += duration - self->children;
    if (duration < counts->minimum)
        counts->minimum = duration;
    if (duration > counts->maximum)
        counts->maximum = duration;
    counts->buckets[index < 0 ? 0 : index >= BUCKETS ? BUCKETS - 1 : index]++;
    if (duration >= counts->slow || (self->real != NULL && self->real != Py_None)
        || (self->pending != NULL && self->pending != Py_None))
        return PyObject_CallMethodNoArgs((PyObject *)self, name_settle);
    Py_RETURN_NONE;
}

static PyMemberDef call_members[] = {
    {"function", T_OBJECT, offsetof(Call, function), 0, NULL},
    {"counts", T_OBJECT, offsetof(Call, counts), 0, NULL},
    {"_caller", T_OBJECT, offsetof(Call, caller), 0, NULL},
    {"_parent", T_OBJECT, offsetof(Call, parent), 0, NULL},
    {"_pending", T_OBJECT, offsetof(Call, pending), 0, NULL},
    {"_real", T_OBJECT, offsetof(Call, real), 0, NULL},
    {"_token", T_OBJECT, offsetof(Call, token), 0, NULL},
    {"_children", T_DOUBLE, offsetof(Call, children), 0, NULL},
    {"_end", T_DOUBLE, offsetof(Call, end), 0, NULL},
    {"_since", T_DOUBLE, offsetof(Call, since), 0, NULL},
    {"_start", T_DOUBLE, offsetof(Call, start), 0, NULL},
    {"_under_way", T_LONGLONG, offsetof(Call, under_way), 0, NULL},
    {NULL},
};
static PyMethodDef call_methods[] = {{"finish", (PyCFunction)call_finish, METH_NOARGS, NULL}, {NULL}};

static PyTypeObject CallType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "otel_perf.calls._fast.CallBase",
    .tp_basicsize = sizeof(Call),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = PyType_GenericNew,
    .tp_init = (initproc)call_init,
    .tp_dealloc = (destructor)call_dealloc,
    .tp_traverse = (traverseproc)call_traverse,
    .tp_clear = (inquiry)call_clear,
    .tp_members = call_members,
    .tp_methods = call_methods,
};

/* --- the module ----------------------------------------------------------------------------------- */

static PyObject *
configure(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *new_variable, *new_type, *new_span_key, *new_call_key;
    if (!PyArg_ParseTuple(args, "O!O!UU:configure", &PyContextVar_Type, &new_variable, &PyType_Type, &new_type,
                          &new_span_key, &new_call_key))
        return NULL;
    if (!PyType_IsSubtype((PyTypeObject *)new_type, &PyDict_Type)) {
        PyErr_SetString(PyExc_TypeError, "a Context is a dict");
        return NULL;
    }
    Py_XSETREF(variable, Py_NewRef(new_variable));
    Py_XSETREF(context_type, Py_NewRef(new_type));
    Py_XSETREF(span_key, Py_NewRef(new_span_key));
    Py_XSETREF(call_key, Py_NewRef(new_call_key));
    Py_RETURN_NONE;
}

static PyObject *
set_clock(PyObject *Py_UNUSED(module), PyObject *clock)
{
    Py_XSETREF(test_clock, clock == Py_None ? NULL : Py_NewRef(clock));
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"configure", configure, METH_VARARGS, NULL},
    {"set_clock", set_clock, METH_O, NULL},
    {NULL},
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_fast", NULL, -1, methods};

PyMODINIT_FUNC
PyInit__fast(void)
{
    PyObject *made;
    name_counts = PyUnicode_InternFromString("counts");
    name_settle = PyUnicode_InternFromString("settle");
    name_outlived = PyUnicode_InternFromString("outlived");
    no_arguments = PyTuple_New(0);
    if (no_arguments == NULL || name_counts == NULL || name_settle == NULL || name_outlived == NULL || PyType_Ready(&CountsType) < 0
        || PyType_Ready(&CallType) < 0)
        return NULL;
    made = PyModule_Create(&module);
    if (made == NULL || PyModule_AddObjectRef(made, "CountsBase", (PyObject *)&CountsType) < 0
        || PyModule_AddObjectRef(made, "CallBase", (PyObject *)&CallType) < 0)
        return NULL;
    return made;
}
