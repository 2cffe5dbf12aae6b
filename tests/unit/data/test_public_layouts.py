"""A few lines of public data sets in their original layouts, read with the data guide's options."""

import datetime
import gzip
import json
import re
import shlex
from pathlib import Path

import pytest

from recjax.data.interactions import BadRows
from recjax.data.prepare import DataConfig, read_options
from recjax.data.sources import table

GUIDE = Path(table.__file__).parents[1] / "README.md"
ROW = re.compile(r"^\| ([\w&.\- ]+\w)(?: \(\w+\))?, .*?`([^`]+)`.*? \| `(.+)` \|$", re.MULTILINE)
ROWS = {(name, file): words for name, file, words in ROW.findall(GUIDE.read_text("utf-8"))}
GOODREADS = "Fri Oct 14 10:29:32 -0700 2016"


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


# By the guide's name and file: the files' texts, the (user, item, seconds) and titles in them.
SAMPLES = {
    ("Amazon 2014", "ratings_Beauty.csv"): (
        {"ratings_Beauty.csv": "A1,0205616461,5.0,1369699200\n"},
        [("A1", "0205616461", 1369699200)],
        {},
    ),
    ("Amazon 2018", "All_Beauty.csv"): (
        {"All_Beauty.csv": "0143026860,A1,1.0,1424304000\n"},
        [("A1", "0143026860", 1424304000)],
        {},
    ),
    ("Amazon 2023", "All_Beauty.csv"): (
        {
            "All_Beauty.csv": "user_id,parent_asin,rating,timestamp\nAG,B00,5.0,1588687728923\n",
            "meta_All_Beauty.jsonl": lines({"title": "Soap", "details": {}, "parent_asin": "B00"}),
        },
        [("AG", "B00", 1588687728)],
        {"B00": "Soap"},
    ),
    ("Book-Crossing", "BX-Book-Ratings.csv"): (
        {
            "BX-Book-Ratings.csv": '"User-ID";"ISBN";"Book-Rating"\r\n"2767";"034545104X";"0"\r\n',
            "BX-Books.csv": '"ISBN";"Book-Title";"Book-Author"\r\n'
            '"034545104X";"\\"Q\\" &amp; Café; 1";"M. J."\r\n',
        },
        [("2767", "034545104X", None)],
        {"034545104X": '"Q" & Café; 1'},
    ),
    ("Diginetica", "train-item-views.csv"): (
        {
            "train-item-views.csv": "sessionId;userId;itemId;timeframe;eventdate\n"
            "1;NA;81766;526309;2016-05-09\n",
            "products.csv": "itemId;pricelog2;product.name.tokens\n81766;10;4875,776\n",
        },
        [("1", "81766", 526)],
        {"81766": "4875,776"},
    ),
    ("EB-NeRD", "history.parquet"): (
        {
            "history.parquet": {
                "user_id": [13538],
                "impression_time_fixed": [
                    [datetime.datetime(2023, 4, 27, 10), datetime.datetime(2023, 4, 27, 11)]
                ],
                "scroll_percentage_fixed": [[100.0, None]],
                "article_id_fixed": [[9738663, 9738569]],
            }
        },
        [("13538", "9738663", 1682589600), ("13538", "9738569", 1682593200)],
        {},
    ),
    ("Epinions", "ratings_data.txt"): (
        {"ratings_data.txt": "5 100 4 \n5 101 3 \n"},
        [("5", "100", None), ("5", "101", None)],
        {},
    ),
    ("Foursquare", "dataset_TSMC2014_NYC.txt"): (
        {
            "dataset_TSMC2014_NYC.txt": "470\t49bbd6\t4bf58d\tCafé\t40.7\t-74.0\t-240\t"
            "Tue Apr 03 18:00:09 +0000 2012\n"
        },
        [("470", "49bbd6", 1333476009)],
        {"49bbd6": "Café"},
    ),
    ("goodbooks-10k", "ratings.csv"): (
        {
            "ratings.csv": "user_id,book_id,rating\n1,258,5\n",
            "books.csv": 'book_id,isbn,authors,title\n258,439023483,A. B.,"La sombra, 1"\n',
        },
        [("1", "258", None)],
        {"258": "La sombra, 1"},
    ),
    ("Goodreads", "goodreads_interactions_poetry.json.gz"): (
        {
            "goodreads_interactions_poetry.json.gz": lines(
                {"user_id": "8842", "book_id": "42", "rating": 5, "date_added": GOODREADS}
            ),
            "goodreads_books_poetry.json.gz": lines(
                {"book_id": "42", "title": "Poems", "authors": [{"author_id": "1", "role": ""}]}
            ),
        },
        [("8842", "42", 1476466172)],
        {"42": "Poems"},
    ),
    ("Goodreads", "goodreads_interactions.csv"): (
        {"goodreads_interactions.csv": "user_id,book_id,is_read,rating,is_reviewed\n0,948,1,5,0\n"},
        [("0", "948", None)],
        {},
    ),
    ("Gowalla", "loc-gowalla_totalCheckins.txt.gz"): (
        {"loc-gowalla_totalCheckins.txt.gz": "0\t2010-10-19T23:55:27Z\t30.2\t-97.7\t22847\n"},
        [("0", "22847", 1287532527)],
        {},
    ),
    ("H&M", "transactions_train.csv"): (
        {
            "transactions_train.csv": "t_dat,customer_id,article_id,price,sales_channel_id\n"
            "2018-09-20,000058,0663713001,0.05,2\n",
            "articles.csv": 'article_id,prod_name,detail_desc\n0663713001,Top,"A ""t"",\nblack"\n',
        },
        [("000058", "0663713001", 1537401600)],
        {"0663713001": "Top"},
    ),
    ("KuaiRand", "log_standard_*.csv"): (
        {
            "log_standard_4_08_to_4_21_pure.csv": "user_id,video_id,time_ms,is_click\n"
            "0,3784,1649390000123,1\n0,12,1649390000124,0\n",
            "log_standard_4_22_to_5_08_pure.csv": "user_id,video_id,time_ms,is_click\n"
            "0,12,1651390000124,1\n",
            "log_random_4_22_to_5_08_pure.csv": "x\n",
        },
        [("0", "3784", 1649390000), ("0", "12", 1651390000)],
        {},
    ),
    ("KuaiRec", "big_matrix.csv"): (
        {
            "big_matrix.csv": "user_id,video_id,time,date,timestamp,watch_ratio\n"
            "0,3649,2020-07-05 00:08:23.438,20200705,1593878903.438,1.27\n",
            "kuairec_caption_category.csv": 'video_id,caption,topic_tag\n3649,"一 \n二",[]\n',
        },
        [("0", "3649", 1593878903)],
        {"3649": "一 二"},
    ),
    ("Last.fm 1K", "userid-timestamp-artid-artname-traid-traname.tsv"): (
        {
            "userid-timestamp-artid-artname-traid-traname.tsv": "user_000001\t"
            '2009-05-04T23:08:57Z\t\t"Weird" Al\tf1b1\t"Eat" It\n'
        },
        [("user_000001", "f1b1", 1241478537)],
        {"f1b1": '"Eat" It'},
    ),
    ("Last.fm 360K", "usersha1-artmbid-artname-plays.tsv"): (
        {"usersha1-artmbid-artname-plays.tsv": "00000c\t3bd7\tbetty blowtorch\t2137\n"},
        [("00000c", "3bd7", None)],
        {"3bd7": "betty blowtorch"},
    ),
    ("Last.fm HetRec", "user_taggedartists-timestamps.dat"): (
        {
            "user_taggedartists-timestamps.dat": "userID\tartistID\ttagID\ttimestamp\r\n"
            "2\t52\t13\t1238536800000\r\n",
            "artists.dat": 'id\tname\turl\tpictureURL\r\n52\tMorcheeba "\thttp://x\t\r\n',
        },
        [("2", "52", 1238536800)],
        {"52": 'Morcheeba "'},
    ),
    ("MicroLens", "MicroLens-50k_pairs.csv"): (
        {
            "MicroLens-50k_pairs.csv": "user,item,timestamp\n5,11558,1583378629552\n",
            "MicroLens-50k_titles.csv": '11558,"A, title"\n',
        },
        [("5", "11558", 1583378629)],
        {"11558": "A, title"},
    ),
    ("MIND", "behaviors.tsv"): (
        {
            "behaviors.tsv": "1\tU1\t11/11/2019 9:05:58 AM\tN7 N8\tN9-0 N7-1\n"
            "2\tU2\t11/12/2019 6:11:30 PM\t\tN9-1\n",
            "news.tsv": 'N7\tnews\tus\t"Brands" Queen\t\thttps://x\t[{"Label": "P"}]\t[]\n',
        },
        [("U1", "N7", None), ("U1", "N8", None)],
        {"N7": '"Brands" Queen'},
    ),
    ("MovieLens HetRec", "user_ratedmovies-timestamps.dat"): (
        {
            "user_ratedmovies-timestamps.dat": "userID\tmovieID\trating\ttimestamp\r\n"
            "75\t3\t1\t1162160236000\r\n",
            "movies.dat": "id\ttitle\timdbID\tspanishTitle\r\n3\tLéon\t1\tNiño\r\n",
        },
        [("75", "3", 1162160236)],
        {"3": "Léon"},
    ),
    ("MyAnimeList", "rating.csv"): (
        {
            "rating.csv": "user_id,anime_id,rating\n1,20,-1\n",
            "anime.csv": 'anime_id,name,genre,size\n20,Gintama&#039;,"Action, Sci-Fi",Unknown\n',
        },
        [("1", "20", None)],
        {"20": "Gintama'"},
    ),
    ("Netflix Prize", "netflix.csv"): (
        {
            "netflix.csv": "1,1488844,3,2005-09-06\n",
            "titles.tsv": "1\t2003\tDinosaurs, Léon\n",
        },
        [("1488844", "1", 1125964800)],
        {"1": "Dinosaurs, Léon"},
    ),
    ("OTTO", "otto-recsys-train.jsonl"): (
        {
            "otto-recsys-train.jsonl": lines(
                {
                    "session": 12899779,
                    "events": [
                        {"aid": 59625, "ts": 1661724000278, "type": "clicks"},
                        {"aid": 1142000, "ts": 1661724000280, "type": "carts"},
                    ],
                }
            )
        },
        [("12899779", "59625", 1661724000), ("12899779", "1142000", 1661724000)],
        {},
    ),
    ("RetailRocket", "events.csv"): (
        {
            "events.csv": "timestamp,visitorid,event,itemid,transactionid\n"
            "1433221332117,257597,view,355908,\n1433221332118,257597,transaction,1,4000\n"
        },
        [("257597", "355908", 1433221332)],
        {},
    ),
    ("Steam", "australian_users_items.json.gz"): (
        {
            "australian_users_items.json.gz": "{'user_id': '76561', 'items_count': 1, 'items': "
            "[{'item_id': '10', 'item_name': u'Counter-Strike', 'playtime_forever': 6}]}\n"
            "{'user_id': 'js41637', 'items_count': 0, 'items': []}\n"
        },
        [("76561", "10", None)],
        {"10": "Counter-Strike"},
    ),
    ("Ta-Feng", "ta_feng_all_months_merged.csv"): (
        {
            "ta_feng_all_months_merged.csv": '"TRANSACTION_DT","CUSTOMER_ID","AGE_GROUP",'
            '"PRODUCT_ID"\n"11/1/2000","01104905","45-49","4710199010372"\n'
        },
        [("01104905", "4710199010372", 973036800)],
        {},
    ),
    ("Taobao", "UserBehavior.csv"): (
        {"UserBehavior.csv": "1,2268318,25,pv,1511544070\n1,2268318,25,buy,1511544071\n"},
        [("1", "2268318", 1511544070)],
        {},
    ),
    ("Yambda", "flat/50m/likes.parquet"): (
        {"flat/50m/likes.parquet": {"uid": [100], "timestamp": [39420], "item_id": [8326270]}},
        [("100", "8326270", 39420)],
        {},
    ),
    ("Yelp", "yelp_academic_dataset_review.json"): (
        {
            "yelp_academic_dataset_review.json": lines(
                {"user_id": "mh_-eMZ", "business_id": "XQfwVwDr", "stars": 3.0, "text": "a\nb",
                 "date": "2018-07-07 22:09:11"}
            ),
            "yelp_academic_dataset_business.json": lines(
                {"business_id": "XQfwVwDr", "name": "Café", "categories": "Food, Tea"}
            ),
        },
        [("mh_-eMZ", "XQfwVwDr", 1531001351)],
        {"XQfwVwDr": "Café"},
    ),
    ("YooChoose", "yoochoose-clicks.dat"): (
        {"yoochoose-clicks.dat": "1,2014-04-07T10:51:09.277Z,214536502,0\n"},
        [("1", "214536502", 1396867869)],
        {},
    ),
}  # fmt: skip


def write(path, text, encoding):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(text, dict):
        pyarrow = pytest.importorskip("pyarrow")
        import pyarrow.parquet as parquet

        return parquet.write_table(pyarrow.table(text), path)
    data = text.encode(encoding)
    return path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def test_each_row_of_the_guide_has_a_sample():
    assert sorted(ROWS) == sorted(SAMPLES)


@pytest.mark.parametrize(("name", "file"), SAMPLES)
def test_the_guides_options(tmp_path, name, file):
    texts, rows, titles = SAMPLES[name, file]
    options = dict(word.split("=", 1) for word in shlex.split(ROWS[name, file].replace("\\|", "|")))
    typed = {word: value == "True" for word, value in options.items() if value in ("True", "False")}
    for path, text in texts.items():
        write(tmp_path / path, text, options.get("encoding", "utf-8"))
    config = DataConfig("table", "unused", options=options | typed)
    path = tmp_path if "file" in options else tmp_path / file
    log, catalog = table.read(path, read_options(config)[1], BadRows(0))
    times = [None] * len(log) if log.timestamps is None else log.timestamps.tolist()
    found = zip(log.users.tolist(), log.items.tolist(), times, strict=True)
    assert [(log.user_keys[u], log.item_keys[i], t) for u, i, t in found] == rows
    assert {item: catalog[item]["title"] for item in titles} == titles
