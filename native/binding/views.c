/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * nic_harness._views: makes the memoryviews of a burst of frames in one call. cffi cannot: it makes
 * a cdata, a buffer and a memoryview, or a slice of one, for each frame.
 */
#include <Python.h>

#include "nic/frames.h"

/*
 * The object behind the views of a burst. It lives as long as any of them, or a slice of one. The
 * garbage collector need not track it: its owner is a cdata that refers only to the machine, and so
 * never back here.
 */
struct pages {
    PyObject_HEAD
    PyObject *owner;          /* keeps the frames alive */
    const struct frame *next; /* the frame of the next view; NULL: all are made */
};

static int
pages_getbuffer(PyObject *self, Py_buffer *view, int flags)
{
    const struct frame *f = ((struct pages *)self)->next;

    if (!f) {
        view->obj = NULL;
        PyErr_SetString(PyExc_BufferError, "pages of a burst: take a slice of a view instead");
        return -1;
    }
    return PyBuffer_FillInfo(view, self, f->data, f->data_len, 0, flags);
}

static void
pages_dealloc(PyObject *self)
{
    Py_DECREF(((struct pages *)self)->owner);
    PyObject_Free(self);
}

static PyBufferProcs pages_as_buffer = {.bf_getbuffer = pages_getbuffer};

static PyTypeObject pages_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "nic_harness._views.Pages",
    .tp_basicsize = sizeof(struct pages),
    .tp_dealloc = pages_dealloc,
    .tp_as_buffer = &pages_as_buffer,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
};

/* append_views() - append a view, or None, for each of @n frames; -1 with an exception set on error */
static int
append_views(PyObject *list, PyObject *owner, const struct frame *f, Py_ssize_t n)
{
    struct pages *pages = PyObject_New(struct pages, &pages_type);
    int err = 0;

    if (!pages)
        return -1;
    pages->owner = Py_NewRef(owner);
    /* Append one by one: making a view may start a garbage collection, which must not see gaps in the list. */
    for (Py_ssize_t i = 0; i < n && err == 0; i++) {
        PyObject *view;

        pages->next = &f[i];
        view = f[i].nsegs == 1 ? PyMemoryView_FromObject((PyObject *)pages) : Py_NewRef(Py_None);
        err = view ? PyList_Append(list, view) : -1;
        Py_XDECREF(view);
    }
    pages->next = NULL;
    Py_DECREF(pages);
    return err;
}

PyDoc_STRVAR(views_doc, "views(owner, frames)\n--\n\n"
                        "Return a list: for each struct frame of a buffer a view of its bytes, "
                        "which keeps `owner`; None for one that is no single piece.");

static PyObject *
views(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *owner, *list;
    Py_buffer frames;
    Py_ssize_t n;

    if (!PyArg_ParseTuple(args, "Oy*", &owner, &frames))
        return NULL;
    n = frames.len / (Py_ssize_t)sizeof(struct frame);
    list = PyList_New(0);
    if (list && append_views(list, owner, frames.buf, n) < 0)
        Py_CLEAR(list);
    PyBuffer_Release(&frames);
    return list;
}

static PyMethodDef functions[] = {
    {"views", views, METH_VARARGS, views_doc},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "nic_harness._views",
    .m_size = -1,
    .m_methods = functions,
};

PyMODINIT_FUNC
PyInit__views(void)
{
    return PyType_Ready(&pages_type) < 0 ? NULL : PyModule_Create(&module);
}
