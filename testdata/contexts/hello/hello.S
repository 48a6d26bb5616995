/* The program of this example, in the two assembly languages it is shipped for. It says that it runs, and leaves
   a file behind for the image. Rebuild with any GNU assembler and linker, for example:
     gcc -nostdlib -static -Wl,-N,--build-id=none,-z,noseparate-code -s -o hello-amd64 hello.S
     aarch64-linux-gnu-gcc … -o hello-arm64 hello.S */
	.globl _start
	.text
_start:
#if defined(__x86_64__)
	mov $1, %edi			/* write(1, text, length) */
	lea text(%rip), %rsi
	mov $length, %edx
	mov $1, %eax
	syscall
	lea path(%rip), %rdi		/* fd = open(path, O_CREAT|O_WRONLY|O_TRUNC, 0644) */
	mov $01101, %esi
	mov $0644, %edx
	mov $2, %eax
	syscall
	mov %eax, %edi			/* write(fd, text, length) */
	lea text(%rip), %rsi
	mov $length, %edx
	mov $1, %eax
	syscall
	xor %edi, %edi			/* exit(0), or 1 if the file could not be written */
	cmp $length, %eax
	setne %dil
	mov $60, %eax
	syscall
#elif defined(__aarch64__)
	mov x0, #1			/* write(1, text, length) */
	adr x1, text
	mov x2, #length
	mov x8, #64
	svc #0
	mov x0, #-100			/* fd = openat(AT_FDCWD, path, O_CREAT|O_WRONLY|O_TRUNC, 0644) */
	adr x1, path
	mov x2, #01101
	mov x3, #0644
	mov x8, #56
	svc #0
	adr x1, text			/* write(fd, text, length) */
	mov x2, #length
	mov x8, #64
	svc #0
	cmp x0, #length			/* exit(0), or 1 if the file could not be written */
	cset x0, ne
	mov x8, #93
	svc #0
#else
#error "hello.S knows x86-64 and aarch64"
#endif
path:	.asciz "/hello.txt"
text:	.ascii "hello from a RUN step: no root, no daemon, no set-up\n"
	.set length, . - text
