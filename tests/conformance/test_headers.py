"""Each manual page's calls compile after the headers of its SYNOPSIS, as strict C and as C++."""

import shutil
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
INCLUDE = CHECKOUT / "native/include"
HEADERS = sorted(str(path.relative_to(INCLUDE)) for path in INCLUDE.rglob("*.h"))
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]

# The SYNOPSIS of each manual page, and every call and name that the page tells of.
PAGES = {
    "jumbo(9)": (
        ["sys/jumbo.h"],
        """
        if (!jumbo_vm_init())
            return;
        vm_page_t pg = jumbo_pg_alloc();
        caddr_t kva = jumbo_phys_to_kva(VM_PAGE_TO_PHYS(pg));
        jumbo_pg_free((vm_offset_t)kva);
        jumbo_freem(kva, NULL);
        jumbo_pg_steal(PHYS_TO_VM_PAGE(VM_PAGE_TO_PHYS(pg)));
        vm_page_free(pg);
        """,
    ),
    "sf_buf(9)": (
        ["sys/sf_buf.h"],
        """
        struct vm_page *m = NULL;
        struct sf_buf *sf = sf_buf_alloc(m, SFB_CATCH | SFB_CPUPRIVATE | SFB_NOWAIT | SFB_DEFAULT);
        sf_buf_ref(sf);
        *(char *)sf_buf_kva(sf) = 0;
        m = sf_buf_page(sf);
        sf_buf_free(sf);
        """,
    ),
    "lwbuf(9)": (
        ["cpu/lwbuf.h"],
        """
        vm_page_t m = NULL;
        struct lwbuf storage, *lwb = lwbuf_alloc(m, &storage);
        *(char *)lwbuf_kva(lwb) = 0;
        m = lwbuf_page(lwb);
        lwbuf_set_global(lwb);
        lwbuf_free(lwb);
        """,
    ),
    "pbuf(9)": (
        ["sys/param.h", "sys/systm.h", "sys/bio.h", "sys/buf.h"],
        """
        int count = nswbuf / 2;
        struct buf *bp = getpbuf(&count), *other = trypbuf(NULL);
        bp->b_iocmd = BIO_READ;
        memset(bp->b_data, 0, MAXPHYS);
        KASSERT(bp->b_bufsize == MAXPHYS, ("%ld bytes", bp->b_bufsize));
        relpbuf(bp, &count);
        relpbuf(other, NULL);
        """,
    ),
    "pmap_quick_enter_page(9)": (
        ["vm/vm.h", "vm/pmap.h"],
        """
        vm_page_t m = NULL;
        vm_offset_t kva = pmap_quick_enter_page(m);
        *(char *)kva = 0;
        pmap_quick_remove_page(kva);
        """,
    ),
    "mbuf(9)": (
        ["sys/param.h", "sys/systm.h", "sys/mbuf.h"],
        """
        static char storage[2048];
        struct mbuf *m = m_gethdr(M_NOWAIT, MT_DATA), *n = m_get(M_WAITOK, MT_CONTROL), *last;
        ext_free_t *release = NULL;

        MH_ALIGN(m, MHLEN / 2);
        M_ALIGN(n, MLEN / 2);
        M_PREPEND(m, 14, M_NOWAIT);
        MEXTADD(n, storage, sizeof(storage), release, NULL, M_RDONLY, EXT_DISPOSABLE);
        if (m_extadd(n, storage, sizeof(storage), release, NULL, 0, EXT_SFBUF) != 0)
            return;
        memset(mtod(m, char *), 0, (size_t)M_TRAILINGSPACE(m));
        *(char *)mtodo(m, M_LEADINGSPACE(m)) = 0;
        n->m_len = M_WRITABLE(n) ? 1 : MINCLSIZE;
        m_cat(m, n);
        m->m_pkthdr.len = (int)m_length(m, &last);
        m_adj(m, -1);
        m = m_pullup(m, 1);
        if (m_copydata(m, 0, 1, storage) != 0)
            return;
        m_freem(m_copym(m, 0, M_COPYALL, M_NOWAIT));
        m_freem(m_copypacket(m, M_NOWAIT));
        m_freem(m_split(m, 1, M_NOWAIT));
        m = m_free(m);
        """,
    ),
}

# The letter of the law, and the compilers' own languages.
LANGUAGES = {
    "c11": ["-std=c11", "-x", "c"],
    "gnu11": ["-std=gnu11", "-x", "c"],
    "c17": ["-std=c17", "-x", "c"],
    "c++17": ["-std=c++17", "-x", "c++"],
    "gnu++17": ["-std=gnu++17", "-x", "c++"],
}


@pytest.fixture(scope="module", params=["gcc", "clang"])
def compiler(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if shutil.which(name) is None:
        pytest.skip(f"there is no {name} here: apt-get install {name}")
    return name


def compiles(compiler: str, language: str, source: Path, text: str) -> None:
    source.write_text(text)
    command = [compiler, *LANGUAGES[language], *WARNINGS, "-fsyntax-only", f"-I{INCLUDE}", source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "++" in language and ("cc1plus" in done.stderr or "'cstdlib' file not" in done.stderr):
        pytest.skip(f"{compiler} knows no C++ here: apt-get install g++")
    assert done.returncode == 0, f"{command}\n{done.stderr}"


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("page", PAGES)
def test_a_manual_page_needs_no_more_than_its_synopsis(
    compiler: str, language: str, page: str, tmp_path: Path
) -> None:
    headers, body = PAGES[page]
    includes = "".join(f"#include <{header}>\n" for header in headers)
    text = f"{includes}void use(void);\nvoid use(void)\n{{{body}}}\n"
    compiles(compiler, language, tmp_path / "page.c", text)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("header", HEADERS)
def test_each_public_header_stands_alone(
    compiler: str, language: str, header: str, tmp_path: Path
) -> None:
    text = f"#include <{header}>\n#include <{header}>\nextern int something;\n"
    compiles(compiler, language, tmp_path / "header.c", text)


@pytest.mark.parametrize("language", LANGUAGES)
def test_all_public_headers_go_together(compiler: str, language: str, tmp_path: Path) -> None:
    text = "".join(f"#include <{header}>\n" for header in [*HEADERS, *reversed(HEADERS)])
    compiles(compiler, language, tmp_path / "all.c", text + "extern int something;\n")
