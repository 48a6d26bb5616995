import tarfile,sys,hashlib
def listing(path):
    t=tarfile.open(path)
    rows=[]
    for m in t.getmembers():
        name='/'+m.name.strip('/').removeprefix('./')
        if name in('/','/.','/dev','/proc','/sys'): continue
        kind={tarfile.DIRTYPE:'dir',tarfile.REGTYPE:'file',tarfile.SYMTYPE:'link'}[m.type]
        what='-'
        if kind=='file' and name!='/bin/busybox': what=hashlib.sha256(t.extractfile(m).read()).hexdigest()
        if kind=='link': what=m.linkname
        time=str(int(m.mtime)) if kind!='dir' and m.mtime<1700000000 else '-'
        rows.append((name,kind,'%o'%(m.mode&0o7777),'%d:%d'%(m.uid,m.gid),time,what))
    return sorted(rows)
if __name__=='__main__':
    for r in listing(sys.argv[1]): print(' '.join(r))
